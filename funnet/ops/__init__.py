"""Array functions tuned per platform, the plain form beside each; layers call them."""
