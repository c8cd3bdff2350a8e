"""The box's disks: a data volume that keeps models, and scratch disks that are lost at each stop.

`device` reads what a block device holds. `decide` says what may be done with it, and refuses whatever might hold data
of others. `volume` formats and grows the data volume, `scratch` makes the file system of the instance store, `mounts`
starts the mount units that the role `storage` writes. The command is `infbox storage`.
"""
