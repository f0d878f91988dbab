"""What things cost, beside the usual ways: the sides of each comparison take turns in one process (``make bench``)."""
