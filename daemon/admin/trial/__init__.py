"""`try`: does it work with the real servers? One small call of each kind, under a cent, and what came back."""
