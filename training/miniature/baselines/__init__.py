"""The rivals of Tables 1 and 6 on the miniature: methods that train something for each person."""
