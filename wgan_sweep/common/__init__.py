"""What every wing uses: atomic files, random streams, images, plots, progress, processes."""
