"""Speed and memory, as ratios against the unwrapped model, side by side in one run."""
