"""Search: which networks of a supernet keep most of its knowledge on given images (DATA, Eq. 3 to 5)."""
