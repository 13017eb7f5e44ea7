"""Work that is done piece by piece: in this process, on several devices, or on a cluster.

Each piece is done for itself and stored as soon as it is done, so that an interrupted job goes on
where it stopped, and the results do not depend on what does the work.
"""
