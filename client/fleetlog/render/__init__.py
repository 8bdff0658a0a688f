"""Text for people: pure functions from answers to lines. What came from hosts passes `text.clean` first."""
