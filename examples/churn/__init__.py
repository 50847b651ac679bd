"""Predicts each month which customers are likely to leave, from table to table. See README.md."""
