"""What a model says around its answer: thinking, greetings, headings, fences, notes and offers.

All of it is left out, by the look of it. What looks like chatter may also belong to the text: a
story may begin with "Sure", and a passage may have a note. So the source is asked: a form of
chatter that one of its sentences has as well is taken for text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from qa.writing.objects import find_objects
from qa.writing.sentences import split_sentences

_TAG = re.compile(
    r"(?:[<◁]\s*(?P<end>/?)\s*\|?(?:\w+:|begin_of_|end_of_)?"
    r"(?:think(?:ing)?|thoughts?|reason(?:ing)?|reflection|analysis|scratchpad)\b[^<>◁▷]*[>▷]"
    r"|\[(?P<closed>/?)THINK\])",
    re.IGNORECASE,
)
# Harmony, the format of gpt-oss: what is said in the last channel is the answer.
_CHANNEL = re.compile(r"^.*<\|channel\|>final(?:<\|\w+\|>)?(?P<answer>.*)$", re.DOTALL)
_ANALYSIS = re.compile(r"<\|channel\|>(?:analysis|commentary)")

_FENCE = re.compile(r"^[ \t]*(?P<fence>`{3,}|~{3,})[ \t]*(?P<rest>[^\n]*)$", re.MULTILINE)
_STEM = r"(?:re-?writ|rewrote|re-?word|re-?phras|para-?phras|revis)"
_ABOUT = rf"(?:{_STEM}|version|passage|text|paragraph)"
_OPENER = (
    r"(?:sure(?: thing)?|certainly|of course|absolutely|okay|ok|alright|yes|gladly|great|"
    r"understood|no problem|happy to help|got it|as (?:you )?(?:requested|asked|wished)|"
    r"好的|当然|當然|はい|もちろん)"
)
_WELCOME = re.compile(rf"(?<!\w){_OPENER}(?!\w)", re.IGNORECASE)
_HERE = r"(?:here(?:['’]s| is| are)|below is|this is|the following is)"
_PRONOUN = re.compile(r"\bI\b")  # where the source has it, so may its rewrite
_OF_I = ("I rewrote that.", "I am happy to do that.")  # what forms about the model itself match
_I = r"i(?:['’]ve| have|['’]d| would|['’]ll| will|['’]m| am| can)?"
_NAME = (
    rf"(?:the |my |a |one )?(?:(?:new|final|updated|alternative) )?"
    rf"(?:{_STEM}\w*(?: (?:version|passage|text|paragraph|form))?"
    r"(?: of the (?:\w+ )?(?:passage|text|paragraph))?"
    r"|passage|version|text|answer|output|response|result|assistant)"
)
_OTHER = r"(?:以下是|下面是|以下は|改写|改寫|重写|重寫|書き換え|言い換え)"


def _forms(*patterns: str) -> tuple[re.Pattern[str], ...]:
    return tuple(re.compile(pattern, re.IGNORECASE) for pattern in patterns)


# The forms are looked for at the beginning of a line or sentence without its marks of Markdown.
_OPENINGS = _forms(
    rf"{_OPENER}\W*$",
    rf"{_OPENER}[,!.，！。、]\s*(?:{_I}|here|below|let|this|as|the following)\b[^\n]*[.!:]$",
)
_GREETINGS = _forms(
    rf"(?:{_OPENER}\W+)?{_HERE}\b[^\n.]*\b{_STEM}[^\n:]*[.:!]$",
    rf"{_I}\b[^\n]*\b{_STEM}[^\n]*[.!:]$",
)
_HEADS = _forms(  # of a line alone
    rf"(?:{_OPENER}\W+)?{_HERE}\b[^\n.]*\b{_ABOUT}[^\n.:]*:$",
    r"here (?:you go|it is|it goes)\W*$",
    rf"{_I}\b[^\n]*\b(?:do that|help|happy)\b[^\n]*[.!:]$",
    rf"{_NAME}\W*$",
    rf"{_OTHER}[^\n。]{{0,24}}[：:]?$",
)
_TAILS = _forms(
    r"[(\[（【]?\s*(?:note|n\.?b\.?|p\.?s\.?|disclaimer|explanation|word count|"
    r"(?:key |main )?changes(?: made)?|注|备注|備註|说明|說明|注記)\W{0,2}[:：.]",
    r"(?:please |just )?(?:let me know|feel free)\b",
    r"i hope (?:this|that|it|you)\b",
    r"(?:would you like|do you (?:want|need)|is there anything)\b",
    r"if you\b[^\n]*\b(?:let me know|help|anything else|further|adjust|changes|version|question)",
    rf"[(\[]?\s*(?:in )?(?:this|the|my) (?:\w+ )?{_ABOUT}\w*\b[^\n]*\b"
    r"(?:keep|kept|maintain|preserv|retain|convey|express|captur|meaning|original)",
    r"[(\[]?\s*i(?:['’]ve| have)? (?:kept|maintained|preserved|retained|tried|changed|rewrote|"
    r"rewritten|rephrased|reworded|ensured|made sure)\b",
    r"(?:希望|如果您|如有)[^\n]*(?:帮助|幫助|告诉我|告訴我|需要)",
)
# What announces the text on the text's own line.
_LABEL = re.compile(
    rf"^[\W_]{{0,4}}(?:{_OPENER}\W+)?(?:(?:here(?:['’]s| is)|below is|the following is)\b[^\n:.]*"
    rf"\b{_ABOUT}\w*(?: \w+){{0,3}}|{_NAME}|{_OTHER}[^：:。]{{0,24}})"
    r"[\W_]{0,3}[:：][\s*_]*(?=\S)",
    re.IGNORECASE,
)
# Signs of a chat template at the ends, and a pair of tags or of JSON's braces around the text.
_SIGNS = re.compile(r"^(?:\s*<\|\w+\|>|\s*</?s>)+|(?:<\|\w+\|>\s*|</?s>\s*|<end_of_turn>\s*)+$")
_TAGGED = re.compile(r"<(?P<tag>[A-Za-z][\w-]*)>(?P<inside>.*)</(?P=tag)>", re.DOTALL)
_COLON = re.compile(r"[:：]\s*$", re.MULTILINE)
_RULE = re.compile(r"\s*(?:[-*_=]\s*){3,}$")
_QUOTES = ('""', "“”", "„“", "«»", "»«", "「」", "『』", "‘’", "''", "``")
_MARKUP = " \t#*_`>"
_MOST_WORDS = 16  # of a heading


def without_thinking(text: str, source: str = "") -> str:
    """Leave out what a model thought before it answered.

    The thinking stands between tags such as ``<think>`` and ``</think>``. Many chat templates
    write the first tag themselves, and the answer begins within the thinking. Where the second tag
    is missing, the thinking was cut off, and nothing behind the first one is an answer.

    Args:
        text: All that the model wrote.
        source: The text that the answer is about. A tag that occurs in it is no sign of thinking.
    """
    if channel := _CHANNEL.match(text):
        text = channel["answer"]
    elif _ANALYSIS.search(text):
        return ""
    said: list[str] = []
    start, is_thinking, has_thought = 0, False, False
    for tag in _TAG.finditer(text):
        if tag.group() in source:
            continue
        ends = bool(tag["end"] or tag["closed"] or "end_of_" in tag.group())
        if not is_thinking:
            said.append(text[start : tag.start()])
        if ends and not is_thinking:
            said = []  # the template has written the first tag
        is_thinking, has_thought, start = not ends, True, tag.end()
    if not is_thinking:
        said.append(text[start:])
    return "".join(said).strip() if has_thought else text


def opened_thinking(prompt: str) -> str:
    """The tag at the end of a prompt behind which the model thinks; "" if there is none."""
    *_, last = [None, *_TAG.finditer(prompt)]
    if last is None or last["end"] or last["closed"] or prompt[last.end() :].strip():
        return ""
    return last.group()


def marks_thinking(token: str) -> bool:
    """True if a special token is a tag of thinking or a sign of Harmony."""
    signs = ("<|channel|>", "<|message|>", "<|start|>", "<|end|>")
    return token in signs or _TAG.fullmatch(token) is not None


def without_chatter(text: str, source: str) -> str:
    """Leave out what a model says around the text that it was asked for.

    Args:
        text: What the model wrote, without its thinking.
        source: The text that it was to put in other words.
    """
    known = [_bare(part) for part in (*source.splitlines(), *split_sentences(source))]
    tells = bool(_PRONOUN.search(source))

    def unlike_source(forms: Iterable[re.Pattern[str]]) -> list[re.Pattern[str]]:
        others = [form for form in forms if not any(map(form.match, known))]
        return [form for form in others if not (tells and any(map(form.match, _OF_I)))]

    heads, tails = unlike_source(_HEADS), unlike_source(_TAILS)
    greetings = unlike_source(_GREETINGS)
    if not _WELCOME.search(source):
        greetings += _OPENINGS
    text = _SIGNS.sub("", text)
    if "```" not in source and "~~~" not in source:
        text = _unfenced(text)
    text = _untagged(text, source)
    lines = [line for line in text.strip().splitlines() if line.strip()]
    while len(lines) > 1 and _is_head(lines[0], lines[1], greetings, heads, source):
        del lines[0]
    for number in range(1, len(lines)):
        if any(form.match(_bare(lines[number])) for form in tails):
            del lines[number:]
            break
    lines = [line for line in lines if not _RULE.match(line) or line in source]
    if lines and all(line.lstrip().startswith(">") for line in lines):
        lines = [line.lstrip(" >") for line in lines]
    body = "\n".join(lines)
    body = body if _LABEL.match(source) else _LABEL.sub("", body, count=1)
    return _unwrapped(_without_sentences(body, greetings, tails), source)


def _bare(line: str) -> str:
    """A line without the marks of Markdown and the quotes around it."""
    return line.strip(_MARKUP).strip(" \"'“”")


def _is_head(
    line: str,
    following: str,
    greetings: list[re.Pattern[str]],
    heads: list[re.Pattern[str]],
    source: str,
) -> bool:
    """True if a first line only announces the text that follows it."""
    bare = _bare(line)
    if line.strip() in source:
        return False
    if _RULE.match(line) or any(form.match(bare) for form in (*greetings, *heads)):
        return True
    if all(any(form.match(one) for form in greetings) for one in split_sentences(bare)):
        return True
    if len(bare.split()) > _MOST_WORDS:
        return False
    begins_list = re.match(r"\s*(?:[-*•]|\d+[.)])\s", following) or _COLON.search(source)
    return line.lstrip().startswith("#") or bool(_COLON.search(bare) and not begins_list)


def _without_sentences(
    body: str, greetings: list[re.Pattern[str]], tails: list[re.Pattern[str]]
) -> str:
    """Leave out the first and the last sentences of a text that are chatter."""
    sentences = split_sentences(body)
    first, last = 0, len(sentences)
    while last - first > 1 and any(form.match(_bare(sentences[last - 1])) for form in tails):
        last -= 1
    while last - first > 1 and any(form.match(_bare(sentences[first])) for form in greetings):
        first += 1
    return " ".join(sentences[first:last])


def _unfenced(text: str) -> str:
    """The inside of the longest fenced block, if most of the text is in it."""
    text = re.sub(r"(?<=\S)[ \t]*(`{3,}|~{3,})[ \t]*$", r"\n\1", text.strip())
    fences = list(_FENCE.finditer(text))
    if not fences:
        return text
    inside = ""
    for first, last in zip(fences[::2], [*fences[1::2], None], strict=False):
        # What stands behind the fence is a language, or the text itself.
        block = text[first.end() : last.start() if last else None]
        if " " in first["rest"].strip():
            block = f"{first['rest']}\n{block}"
        inside = max(inside, block.strip(), key=len)
    return inside if inside.strip() else _FENCE.sub("", text)


def _untagged(text: str, source: str) -> str:
    """The inside of a pair of tags, or of a JSON object with one text, if most is in it."""
    tagged = _TAGGED.search(text)
    if tagged and f"<{tagged['tag']}>" not in source and 2 * len(tagged["inside"]) > len(text):
        return tagged["inside"].strip()
    if text.lstrip().startswith("{") and not source.lstrip().startswith("{"):
        said = [value for found in find_objects(text)[:1] for value in found.values()]
        if len(said) == 1 and isinstance(said[0], str):
            return said[0].strip()
    return text


def _unwrapped(text: str, source: str) -> str:
    """Take off the emphasis and the quotes around a whole text, unless the source has them too."""
    text = text.strip()
    for marks in ("***", "**", "__", "*", "_"):
        inner = text[len(marks) : -len(marks)]
        if text.startswith(marks) and text.endswith(marks) and inner and marks not in inner:
            text = inner.strip()
    for quotes in _QUOTES:
        first, last = quotes[0], quotes[1]
        inner = text[1:-1]
        is_wrapped = len(text) > 2 and text[0] == first and text[-1] == last
        if is_wrapped and first not in inner and last not in inner:
            own = source.strip()
            return text if own[:1] == first and own[-1:] == last else inner.strip()
    return text
