"""The most frequent small words of languages that share a script: they give a language away.

Words of one language only say most; a word that several have, such as "de", says little, but is
listed with each of them so that it favours none.
"""

# Language (ISO 639-1) -> script -> words, in lower case.
STOP_WORDS: dict[str, dict[str, str]] = {
    "Latin": {
        "ca": "el la els les de del i que en un una per amb no és al als més com però també aquest "
        "aquesta són ha dels o si va entre sobre fins on quan molt",
        "cs": "a je se v na že s do z to jako o k i ale pro za by po tak jsou nebo ve také které "
        "který jeho být při od byl která není už aby však jen",
        "da": "og i at det er en til på som for med der de af ikke den et har var kan men om fra "
        "ved blev eller også efter skal hvor sig jeg være når",
        "de": "der die und in den von zu das mit sich des auf für ist im dem nicht ein eine als "
        "auch es an werden aus er hat dass sie nach wird bei einer um am sind noch wie oder wenn",
        "en": "the of and to in a is that for it as was with be by on not he this are or his from "
        "at which but have an they you were her had their can will has if when all we there",
        "es": "de la que el en y a los del se las por un para con no una su al lo como más pero "
        "sus le es o fue este ha si porque esta son entre cuando muy sin sobre también",
        "et": "ja on ei et see oli ta mis kui ka oma ning mida või aga siis kes nii seda selle ma "
        "tema pärast olid veel võib väga kuid ole",
        "fi": "ja on ei se että hän oli mutta joka ovat kun myös sen niin kuin mukaan tai jos vain "
        "ole tämä sitä ne voi hänen jo siitä olla minä sekä jotka",
        "fr": "de la le et les des en un une est que qui dans pour du par sur au pas plus ne il "
        "avec ce se sont aux ou son elle cette mais être ont sa leur été nous vous",
        "hr": "i je u na se da za su od s a koji o kao što ne bi iz do te ali ili biti koja koje "
        "sam bio kako samo nije to prema ako može",
        "hu": "a az és hogy nem is egy ez van de meg csak volt még mint már ha el azt vagy ki kell "
        "lehet után mert minden között nagyon amely azonban olyan szerint",
        "id": "yang dan di dengan untuk dari ini itu dalam pada adalah tidak ke akan oleh juga "
        "atau sebagai dapat karena telah ada mereka bisa tersebut kami anda lebih sudah",
        "it": "di e il la che in un per è a del una non con si i da le dei al alla nel come più "
        "ma della sono gli anche lo o su ha delle questo essere se dal",
        "lt": "ir yra į kad su iš o ne tai buvo bet kaip už apie nuo jo ar dar labai būti taip "
        "kuris jis prie gali jau kai per po arba jei",
        "lv": "un ir ar no uz par kas ka bet kā arī tika viņš lai pie vai pēc var bija šis būt "
        "nav tas to tā gan ja jau līdz savu",
        "nl": "de van het een en in is dat op te zijn met voor niet aan er om ook als dan maar "
        "bij wordt door worden naar uit nog heeft kan of deze die over hebben werd",
        "no": "og i det er på som en å for av til med at har de ikke den et var seg kan men om "
        "fra ble også eller skal hvor etter når være dette jeg",
        "pl": "w i na z się nie do to że jest o jak od po przez dla za są ale co oraz był lub tym "
        "jego może być także które który tylko już czy gdy",
        "pt": "de a o que e do da em um para com não uma os no se na por mais as dos como mas ao "
        "ele das foi à seu sua ou são é também pelo pela quando muito nos já",
        "ro": "și de în a la cu care pe că nu este din un o să se mai pentru sunt au fost ca prin "
        "sau dar fi sa ale lui cel această după între fără",
        "sk": "a je sa v na že s do z to ako o k aj ale pre za by po tak sú alebo vo tiež ktoré "
        "ktorý jeho byť pri od bol ktorá nie už aby však len",
        "sl": "in je v na da se za so ki od z pa ne bi po iz s tudi kot ali o do kako lahko bil "
        "biti ker pri samo še tako jih bo",
        "sv": "och i att det är en som på för av med till den har inte de ett om men var från kan "
        "vid så eller ska han också efter där när sig jag vara",
        "tr": "ve bir bu için da de ile olarak çok daha olan gibi en ne kadar sonra olduğu değil "
        "ama ya var her o kendi veya ancak ise göre tarafından bunu",
        "vi": "và của là có cho các được trong không một với những người này đã từ khi đến để ở "
        "vào như tại cũng về ra nhưng phải hay nhiều bị theo",
    },
    "Cyrillic": {
        "be": "і у не на што з ён да як гэта а па для але яго за ад быў так яна былі ці таксама "
        "пра каб калі можа яны толькі які",
        "bg": "на и в се да от за е с не по като са че си а до което който към или това беше как "
        "може след но при има само му ще",
        "kk": "және бұл мен үшін да де деп бір осы болып бар емес туралы ол еді болды сол сондай "
        "бойынша кейін қазақ дейін өз керек арқылы немесе",
        "mk": "на и во се да од за е со не по како што а која кој ги или беше тоа може но при има "
        "само му ќе го ја сѐ сите",
        "ru": "и в не на что с он как это по но из к а у за от его то для же так все или бы только "
        "был была при также если может быть которые они их",
        "sr": "и је у на се да за су од са а који о као што не би из до те али или бити која које "
        "сам био како само није то према ако може",
        "uk": "і в не на що з та до як це у за від для але про його він або так й був було також "
        "при якщо може бути які вони ще де тільки чи є",
    },
    "Arabic": {
        "ar": "في من على أن إلى التي هذا عن مع الذي كان هذه ما لا بين ذلك كما قد أو هو هي بعد لم "
        "كل وقد حيث إن كانت عند غير ولا",
        "fa": "و در به از که این را با است برای آن یک خود تا بر هم می نیز شد کرد شده ما یا اما شود "
        "باید دارد بود هر های",
        "ur": "کے کی میں ہے اور سے کا کو اس پر نے کہ ہیں یہ ایک نہیں بھی وہ تھا کر گیا جو تو ہو "
        "لیے ان تھے ہی کیا",
    },
    "Devanagari": {
        "hi": "के है में की से और का को पर यह एक ने कि हैं इस भी नहीं कर हो लिए तो था वह या गया जो "
        "अपने द्वारा साथ थे",
        "mr": "आणि आहे या हे ते व तो एक की आहेत होते त्या मध्ये होता नाही केले त्यांनी असे हा ती पण "
        "येथे म्हणून साठी काही",
        "ne": "र को मा छ का हो पनि छन् यो लागि ले एक गर्न भएको गरेको थियो तथा यस उनले भने हुन् गर्ने "
        "तर त्यो नेपाल",
    },
}

# The language of a script that one language is nearly alone in using.
LANGUAGE_OF_SCRIPT = {
    "Greek": "el",
    "Armenian": "hy",
    "Hebrew": "he",
    "Bengali": "bn",
    "Gurmukhi": "pa",
    "Gujarati": "gu",
    "Oriya": "or",
    "Tamil": "ta",
    "Telugu": "te",
    "Kannada": "kn",
    "Malayalam": "ml",
    "Sinhala": "si",
    "Thai": "th",
    "Lao": "lo",
    "Tibetan": "bo",
    "Myanmar": "my",
    "Georgian": "ka",
    "Ethiopic": "am",
    "Khmer": "km",
    "Hangul": "ko",
    "Kana": "ja",
    "Han": "zh",
}
LANGUAGES = frozenset(LANGUAGE_OF_SCRIPT.values()).union(*STOP_WORDS.values())
