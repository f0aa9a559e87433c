"""How cost grows: with clients, with edges on one cloud, with the size of photos, and with the number of exits."""
