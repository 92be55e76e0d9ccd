"""What the replicas of families that compute with torch share."""
