"""A supernet on disk, and what is taken out of it: one network's weights, with statistics of its own."""
