"""Which samples never reach captioning or training: rules, perceptual hashes, lists. Pure: numpy and PIL at most."""
