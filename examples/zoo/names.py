"""Invented people and companies, and cities, for the tasks written for this project."""

FIRST_NAMES = (
    "Ada Boris Carla Dmitri Elena Farid Greta Hassan Ingrid Jonas Karin Liam Magda Nadia Oskar Petra "
    "Quinn Rosa Stefan Tamar Umar Vera Walter Xenia Yusuf Zoe Amina Bruno Celia Daniel Edith Felix "
    "Gloria Hugo Irene Jamal Kenji Lucia Marco Nora Omar Paula Ravi Sofia Tomas Ursula Victor Wanda Yara "
    "Zeno"
)
LAST_NAMES = (
    "Adler Becker Castro Dawson Eriksen Fischer Garcia Hansen Ivanov Jensen Keller Larsen Moreau Novak "
    "Okafor Petrov Quist Rossi Schmidt Tanaka Unger Vargas Weber Yilmaz Zimmer Andersson Bianchi Cooper "
    "Dubois Egger Fontana Gruber Holm Iqbal Jansen Kovac Lindqvist Mendez Nilsson Olsen Parker Romano "
    "Santos Turner Vogel Wagner Young Zeller Banerjee Costa"
)
CITIES = (
    "Leeds Lyon Bergen Porto Graz Turin Ghent Malmo Bristol Kassel Bilbao Tampere Utrecht Krakow Zagreb "
    "Cork Basel Verona Dresden Aarhus Cardiff Nantes Oslo Riga Seville Split Linz Delft Girona Plovdiv"
)
COMPANIES = (
    "Larkfield Brightwell Stonebridge Greenhill Fairwater Silverline Oakmont Rivergate Windmere Ashcroft "
    "Bluecrest Copperfield Duskwood Eastlake Foxglove Goldbrook Hawthorn Ironside Juniper Kestrel "
    "Lighthouse Maplewood Nightingale Orchard Pinewood Quarry Rosewood Summerfield Thornbury Westfield"
)
