"""A small closed world with known truth, in which the method's claims become measurements."""
