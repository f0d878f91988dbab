"""What every layer uses: atomic files, random streams, images, plots, progress, processes."""
