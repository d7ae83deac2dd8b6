"""One file a backend; see gpubench.device for what it defines."""
