"""Single weights set to zero: masks, what they keep, and the regimes under which a network is trained with them."""
