"""Networks in closed form: pure functions on shapes that read like the papers' tables. No torch here."""
