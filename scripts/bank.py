"""Look after a bank of experts.

  python scripts/bank.py COMMAND DIR …           DIR is the bank's folder
  python scripts/bank.py COMMAND --help          the options of one command

Commands:
  info         say what the experts are, and how many
  list         write the id and the passage's hash of every expert, as JSON lines
  verify       check the files' checksums; exit code 2 if something is damaged
  compact      rewrite shards that are small or have gaps, and delete unused files
  merge        copy the experts of other banks into this one
  remove       remove experts; `compact` frees their space
  export       copy the bank, packed and checked, into a new folder
  push         upload the bank to the Hugging Face hub
  export-peft  write an expert as a PEFT adapter
  import-peft  add a PEFT adapter of the final FFN as an expert

With hydra.run.dir=RUN the numbers of the result are also written to RUN/metrics.json.
"""

from __future__ import annotations

from plumbing.cli import tool

if __name__ == "__main__":
    tool("dmoe.commands.bank.bank_command", __doc__, takes_arguments=True)
