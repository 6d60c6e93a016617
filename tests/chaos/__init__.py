"""A harness that kills, fools and robs training runs, and checks that no bit of them changes."""
