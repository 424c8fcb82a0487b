"""What graders read off a text: its final answer, words, numbers, choices and mathematics."""
