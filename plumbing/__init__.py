"""How anything here is stored, configured and resumed. It knows neither passages nor models.

* `plumbing.cli`: what every command does with its configuration and with errors.
* `plumbing.settings`: the types of settings; `plumbing.mounts`: errors that name the setting.
* `plumbing.storage`: files and folders that are whole or not there, manifests, hashes, logs.
* `plumbing.training`: checkpoints that survive a kill, and exact resumption.
* `plumbing.batches`: rows of unequal length as rectangular batches.
* `plumbing.devices`: where a model runs; `plumbing.ray_cluster`: Ray for as long as a job takes.
* `plumbing.output`: what is printed; `plumbing.progress`: progress bars; `plumbing.quiet`: the
  messages of libraries that are left out.
* `plumbing.signals`: signal handlers, kept while other libraries start; `plumbing.stopwatch`: how
  long something took.
"""
