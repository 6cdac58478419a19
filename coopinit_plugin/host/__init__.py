"""The user's process: what the warm-up borrows there, and gives back as it was.

batches        the loader's data: read no further than needed, taken up again after an interruption
checkpoint     a warm-up that was killed, on disk
copies         the user's networks: the work is done on copies
engine         the user's Accelerator, the processes and what they tell each other
guarded_pass   the user's networks, hooks and attributes: proof, before any training, that the copies alone compute
memory_format  nothing of the user's: the layout in which D's copy is fastest
networks       the user's networks again: all of their values are written at the end, or none
randomness     the state of every random generator
"""
