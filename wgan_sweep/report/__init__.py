"""Reports, from run directories alone."""
