"""A Flask app that announces rides and shows what is predicted of them. The README says how to run it."""
