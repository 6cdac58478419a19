"""How the user's networks are called: inferred by looking, proved by running them."""
