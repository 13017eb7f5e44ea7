"""Look after a bank of experts or of codes.

A row is what the bank has of a passage: a trained expert, or the code of a generated one.

  python scripts/bank.py COMMAND DIR …           DIR is the bank's folder
  python scripts/bank.py COMMAND --help          the options of one command

Commands:
  info         say what the rows are, and how many
  list         write the id and the passage's hash of every row, as JSON lines
  verify       check the files' checksums; exit code 2 if something is damaged
  compact      rewrite shards that are small or have gaps, and delete unused files
  merge        copy the rows of other banks into this one
  remove       remove rows; `compact` frees their space
  export       copy the bank, packed and checked, into a new folder
  push         upload the bank to the Hugging Face hub
  export-peft  write an expert as a PEFT adapter
  export-model merge experts into the model, and write it whole
  import-peft  add a PEFT adapter of the final FFN as an expert

With hydra.run.dir=RUN the numbers of the result are also written to RUN/metrics.json.
"""

from __future__ import annotations

from plumbing.cli import tool

if __name__ == "__main__":
    tool("dmoe.commands.bank.bank_command", __doc__, takes_arguments=True)
