"""The audit: seven questions about the paper's claims, their runs, tables, figures and verdicts."""
