"""SimCore (Kim et al., 2023, arXiv:2303.11101): the part of a large set of images that is near the target's."""
