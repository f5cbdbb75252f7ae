"""Statistics without a clock, a socket or a global source of randomness: arrays in, numbers out."""
