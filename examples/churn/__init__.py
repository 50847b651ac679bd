"""Who is likely to leave, once a month, from table to table. The README says how to run it."""
