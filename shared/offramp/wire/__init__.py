"""The contract between tiers: generated messages and the codecs of feature tensors."""
