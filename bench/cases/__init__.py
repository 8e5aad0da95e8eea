"""One module for each case; `bench.__main__` runs those in `CASES`, in this order."""
