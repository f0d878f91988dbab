"""Theory beside measurement: closed forms, and the figures and tables that hold runs against them."""
