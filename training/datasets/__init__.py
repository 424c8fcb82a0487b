"""Questions with known answers: built in, or from files of the user's."""
