"""Small checkpoints of ordinary classes that come with the package, and how they were trained.

The training code is not part of the engine: it is run by hand, and it may name tasks.
"""
