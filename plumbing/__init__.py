"""How anything here is stored, configured and resumed. It knows neither passages nor models.

* `plumbing.cli`: what every command does with its configuration and with errors.
* `plumbing.settings`: the types of settings; `plumbing.devices`: where a model runs.
* `plumbing.storage`: files and folders that are whole or not there, manifests, hashes, logs.
* `plumbing.training`: checkpoints that survive a kill, and exact resumption.
"""
