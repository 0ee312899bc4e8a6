"""What is made of activations: directions, and the statistics that say what may be claimed."""
