"""HTTP face of the sandbox: programs in, rewards and words out."""
