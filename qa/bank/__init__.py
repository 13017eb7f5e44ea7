"""A bank: something small that was made of each passage, up to millions of them, on disk.

What a row of a bank is, its package says: a trained expert (`dmoe.bank`) or the code of a generated
one (`genpoe.codes`). Here is what they have in common. A bank is a folder with these files::

    manifest.json              names the backbone, how rows are made, and the shards that count
    manifest.copy.json         a copy of the manifest
    shards/<name>.safetensors  ids, checksums, and a row of bytes for each passage
    shards/<name>.head         a copy of the beginning of that shard, up to the rows
    README.md                  the card, for people who find the folder

A shard is written once and never changed. A later shard overrides an earlier one, so rows are
added, replaced and removed in the same way: a shard is written, and then a manifest that names it
is renamed into place. The bank survives a crash because a shard counts only when the manifest names
it. What is kept twice is still served when one copy is damaged. The bytes of a row are kept once,
with a checksum, and reading a damaged row raises an error that names it.
"""
