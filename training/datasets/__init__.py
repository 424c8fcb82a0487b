"""Problems with known answers: built in, from files, or from data sets of the hub."""
