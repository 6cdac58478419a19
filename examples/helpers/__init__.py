"""What the examples share: the digits they train on, the comparison of two starts, and its picture."""
