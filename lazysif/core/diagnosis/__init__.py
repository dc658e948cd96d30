"""What facts about a node mean for a mount, and what to do about them. Pure: looking is done in `lazysif.doctor`."""
