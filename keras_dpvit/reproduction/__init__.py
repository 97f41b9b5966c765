"""Tables of the papers made again, and the networks that they compare with."""
