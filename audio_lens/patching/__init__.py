"""Causal tools: activation, attribution and path patching, ablation, in logits and in sound."""
