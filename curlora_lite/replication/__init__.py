"""What only this repository needs: the runs behind the paper's tables, and how they are shown."""
