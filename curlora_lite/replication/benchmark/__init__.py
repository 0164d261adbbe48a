"""Speed and memory beside what others use."""
