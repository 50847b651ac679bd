"""The page takes the app of its clients as known."""
