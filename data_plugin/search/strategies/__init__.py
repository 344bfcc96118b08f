"""How a search finds its candidates and spends images on them."""
