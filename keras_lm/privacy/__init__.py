"""What should not be learnt of a text: numbers and names of persons, found and masked before anything else is done with it."""
