"""How the user's networks are called: inferred by looking, proved by running them.

adapter     what the user says, and what the method gets of it
inspection  the order of the search; presets: ready answers
data        what of a batch is data; takes: what a layer takes, and labels in the form in which it wants them
generators  how G is called; scores: how D is, and which number counts; sigmoids: the logit before a final one
proof       that gradients arrive; advice: the lines that errors show
"""
